"""Files on their way to the Hugging Face Hub: which ones go, what is there already, one commit for all of them."""
