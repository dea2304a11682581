"""A memory in the place that other libraries keep for one; each module needs the library that it is named after."""
