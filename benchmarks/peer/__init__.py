"""What vs_peft.py is made of: the sides, their seconds and bytes, and the page about them."""
