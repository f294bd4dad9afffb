"""What a run tells its user: leaderboard, text report, model card, live progress."""
