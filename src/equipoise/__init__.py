from .equilibrium import *
