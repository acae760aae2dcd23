"""Quality of the demo models, measured through the served pipeline."""
