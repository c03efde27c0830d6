"""Takes files and fields. Gives the form that carries them, as curl writes it. Knows nothing of what is tested."""

BOUNDARY = "tests-boundary"
HEADERS = {"Content_Type": f"multipart/form-data; boundary={BOUNDARY}"}


def form(*files: tuple[str, bytes], **fields: str) -> bytes:
    """Write a form of files in the field `images`, behind other fields."""
    parts = [_part(f'name="{name}"', value.encode()) for name, value in fields.items()]
    parts += [_part(f'name="images"; filename="{name}"', data) for name, data in files]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def _part(disposition: str, data: bytes) -> bytes:
    return f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + data + b"\r\n"
