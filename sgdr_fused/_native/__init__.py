"""The C++ extension: how it is built, found and chosen."""
