"""What only the book needs: figures, exercises, experiments. Nothing outside this folder imports it."""
