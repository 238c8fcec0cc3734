"""Stamps: something that repeats in pictures that are otherwise unlike, under captions that are alike.

That is what a backdoor is, whether its captions were changed or not: pictures of anything (or of the target itself),
one trigger, one target. Traits compare an image with the images of its own caption's vicinity and see the first pairs
of an attack; honest families of logos and frames stand beside them. From such *seeds* the search goes the other way,
from the picture to the captions. It looks in five ways, in four of them (``look.Look``) so:

- ``place``: the detail at one place of the picture, from the images of the strongest ``patch``;
- ``window``: the detail of one salient window, wherever it lies, from the windows that recur under like captions;
- ``grain``: the fine structure of the whole picture, from the images of the strongest ``texture``;
- ``tone``: the colours and contrasts of the whole picture, from the tones that recur under like captions.

These go on alike (``crowd``):

1. What a seed shows is looked for in every image. The *carriers* have it several spreads more than the middle one of
   all images; a family of look-alike images counts once. The mean over them is the next template, a few times, and then
   a carrier has it at least nearly as clearly as the middle one of the round before. What is part of a template is
   compared with the mean of the others.
2. Honest carriers are alike as a whole: cards of one deck, keys of one keyboard. So only pairs of carriers count whose
   images are less alike than two random ones (the median of random pairs). Their captions' mean likeness is the
   *coherence*: 0 for random captions, about 1 for equal ones. A stamp has ``crowd.COHERENCE`` at least.
3. By chance? Every carrier has a *stand-in*, the image most like it of another family that carries nothing. If what
   repeats meant nothing, the captions of the stand-ins would agree as much with those of the carriers as theirs do:
   Wilcoxon's signed ranks, adjusted for all groups that were tested (Benjamini and Hochberg).

The fifth, ``bend``, and ``place`` once more begin with the captions (``vicinity``): what two warped pictures have in
common is too little to be a seed, and what forty have is enough.

``search.find_stamps`` is the step of the scan, ``told`` what it leaves in the run folder.

Blind spots: fewer than some ten carriers, more than a seventh of the data (the spread), a target whose pictures are all
alike. A watermark on the pictures of one shop is a stamp.

Source: own construction; numbers in docs/experiments.md.
"""
