"""Reports from what runs left behind: self-contained HTML pages. Knows nothing of training, Ray or torch."""
