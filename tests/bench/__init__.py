"""Measurements, as ratios of two things run side by side on one machine. Figures are printed, never asserted."""
