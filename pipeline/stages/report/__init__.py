"""The stage that gathers all results in one HTML page, results/report/index.html."""
