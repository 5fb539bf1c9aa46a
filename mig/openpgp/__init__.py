"""OpenPGP packets and certificates, read and nothing else."""
