"""The documents that an ethics board asks for, and the texts that experts see."""
