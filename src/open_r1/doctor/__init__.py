"""The checks of ``open-r1 doctor``: what can be known of a machine in a minute."""
