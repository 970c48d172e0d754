"""Protocol of a review: documents for an ethics board, and the consent and support texts that experts see."""
