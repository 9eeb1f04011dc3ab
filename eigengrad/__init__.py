from eigengrad.eigh import eigh
from eigengrad.gradients import *
