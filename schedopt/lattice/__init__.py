"""What holds in every schedule that ends by some time, from the states of each stream.

Reading order: ``problem`` (an op graph as classes of ops that pass in order),
``listing`` and ``states`` (the lattices of what streams may have run), ``memo`` and
``propagation`` (windows of ops, narrowed along edges and through lattices), ``shaving``
(one decision ahead), ``windows`` (all of it as one object). docs/bounds.md has the
proofs.
"""

from schedopt.lattice.problem import Ints, Problem, classes_on, problem_of
from schedopt.lattice.windows import Windows, windows_by

__all__ = ["Ints", "Problem", "Windows", "classes_on", "problem_of", "windows_by"]
