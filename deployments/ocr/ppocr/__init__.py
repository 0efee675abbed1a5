"""PP-OCR: text is found on a page, cut out line by line, read, and put in order."""
