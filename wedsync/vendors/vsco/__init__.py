"""VSCO Workspace (formerly Tave), API v2: a photographer's studio."""
