"""What a card says of the arguments, and which of them all ranks of a group must share."""
