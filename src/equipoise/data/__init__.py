"""What people bring: items in files, the scan that measured them, and the data set of both."""
