"""Tables of a teacher's targets on disk, which know their columns and rows and nothing of the teacher."""
