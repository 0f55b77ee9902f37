// Attention of packed texts, forward and backward; the backward computes the weights again from their log-sums.
