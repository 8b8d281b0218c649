"""An OpenAI-compatible front for engines that bring none."""
