"""Parts that several training methods share: losses, selection, collectives, stored labels."""
