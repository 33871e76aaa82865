"""The files that a stage leaves in results/ and the next stage reads; evaluations stored for comparison."""
