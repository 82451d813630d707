import os
from urllib.parse import urlparse
from tornado.ioloop import IOLoop
from tornado.web import Application, RequestHandler, authenticated
from jupyterhub.services.auth import HubOAuthenticated, HubOAuthCallbackHandler


class Who(HubOAuthenticated, RequestHandler):
    @authenticated
    def get(self):
        self.write(self.get_current_user())


prefix = os.environ["JUPYTERHUB_SERVICE_PREFIX"]
app = Application(
    [(prefix + "?", Who), (prefix + "api/me", Who), (prefix + "oauth_callback", HubOAuthCallbackHandler)],
    cookie_secret=os.urandom(32),
)
url = urlparse(os.environ["JUPYTERHUB_SERVICE_URL"])
app.listen(url.port, url.hostname)
IOLoop.current().start()
