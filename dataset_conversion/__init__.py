"""Converters: public raw datasets -> the standard layout in a workspace. One thin module per dataset."""
