"""One HTML file that shows measurements: no script, no network, nothing from elsewhere, whatever the records hold.

    render(Page("My-Model", evaluations=(body,), history=lines))        bytes of UTF-8, under LIMIT

`body` is an object of schema quantkit.eval/1, lines are of quantkit.eval-history/1; both may come from strangers once
their types are checked. Text becomes markup in `markup.tag` alone, which escapes it; the policy of the document allows
its one style sheet by hash, and nothing else.
"""

from quantkit.report.html.page import LIMIT, START, Artifact, Page, render

__all__ = ["LIMIT", "START", "Artifact", "Page", "render"]
