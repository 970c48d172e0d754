"""What a submission would cost and lack, before it is made."""
