"""What may be done: the vocabulary of grants and the answer to every act. Decides; touches nothing."""
