"""What others measured: records of a kind of their own, which nothing of ours is compared with."""
