"""What run folders say together: tables, comparisons, plots; and what one run says at its end."""
