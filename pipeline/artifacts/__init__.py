"""What a stage leaves in results/ and the next one reads; evaluations kept for comparison; the Pareto front."""
