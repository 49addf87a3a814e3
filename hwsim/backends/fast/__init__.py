"""The fast backend: batched, equal to the reference by arithmetic that cannot round."""
