"""Run commands on this machine, over ssh or through a queueing system, in Kaldi's call form. Standard library only."""
