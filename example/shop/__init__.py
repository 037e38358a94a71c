"""Fern & Quill, a small shop for people who write letters."""
