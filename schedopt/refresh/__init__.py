"""The refresh of second-order information: frames, packings, their bounds."""
