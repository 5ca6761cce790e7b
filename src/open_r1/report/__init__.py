"""What a person looks at: progress while it runs, tables when it ends, an HTML report to keep."""
