"A small imitation of the Hugging Face Hub on this machine: what the client sends is kept, what it may not have is refused."
import base64, json, threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Hub:
    def __init__(self): self.files, self.refuse, self.token = {}, {}, "hf_good"

def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        def log_message(self, *args): pass
        def reply(self, body=b"{}", status=200, **headers):
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for k, v in {"Content-Length": len(body), "Content-Type": "application/json", "X-Repo-Commit": "0"*40, "ETag": '"1"', **headers}.items(): self.send_header(k.replace("_", "-"), str(v))
            self.end_headers()
            if self.command != "HEAD": self.wfile.write(body)
        def refused(self):
            "Refuse what was asked of a name that is closed; the client reads the reason from a header."
            for name, (status, code) in hub.refuse.items():
                if name in self.path: self.reply({"error": code}, status, X_Error_Code=code, X_Error_Message=code); return True
        def do_GET(self):
            if self.refused(): return
            if self.path == "/api/whoami-v2":
                if self.headers.get("Authorization") != f"Bearer {hub.token}": return self.reply({"error": "Invalid credentials"}, 401)
                return self.reply({"name": "somebody", "type": "user"})
            if "/tree/main" in self.path: return self.reply({"error": "EntryNotFound"}, 404, X_Error_Code="EntryNotFound")
            name, _, file = self.path.lstrip("/").partition("/resolve/main/")
            if file and f"{name}/{file}" in hub.files: return self.reply(hub.files[f"{name}/{file}"], ETag=f'"{abs(hash((name, file)))}"')
            if file and any(f.startswith(name + "/") for f in hub.files): return self.reply({"error": "EntryNotFound"}, 404, X_Error_Code="EntryNotFound")
            self.reply({"error": "RepoNotFound"}, 404, X_Error_Code="RepoNotFound")
        do_HEAD = do_GET
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.refused(): return
            if self.path == "/api/repos/create":
                asked = json.loads(body); name = f"{asked['organization']}/{asked['name']}"
                return self.reply({"url": f"{hub.url}/{'datasets/' if asked.get('type') == 'dataset' else ''}{name}", "name": name})
            if "/preupload/" in self.path: return self.reply({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]})
            if "/commit/" in self.path:
                name = "/".join(self.path.split("/")[3:5])
                for line in map(json.loads, body.decode().strip().splitlines()):
                    if line["key"] == "file": hub.files[f"{name}/{line['value']['path']}"] = base64.b64decode(line["value"]["content"])
                return self.reply({"commitUrl": f"{hub.url}/{name}/commit/{'0'*40}", "commitOid": "0"*40, "hookOutput": ""})
            self.reply({}) # yaml validation
    return Handler

@contextmanager
def running():
    "A hub at `.url` while the block runs."
    hub = Hub(); server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)); hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield hub
    finally: server.shutdown()
