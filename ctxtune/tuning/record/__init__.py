"""What is written down of a sweep: journal, run specifications, results folder. Knows no Ray and no torch."""
