"""What a teacher said of the images of a data set, on disk, in the place of the teacher."""
