"""Images as a processor resized and cropped them, kept on disk: a run that reads them decodes nothing."""
