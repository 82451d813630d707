"""Where learner code runs: confined processes that are used once and thrown away."""
