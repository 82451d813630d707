-- Run once, when the volume is new (docker-compose.yml, profile postgres).
-- The password is in the environment of this container and nowhere else: not in a file, not on a command line.
\set password `printenv POSTGRES_PASSWORD`
CREATE ROLE gradlab LOGIN PASSWORD :'password';
-- The superuser has no way in but the socket inside the container.
ALTER ROLE postgres PASSWORD NULL;
-- One database for the store and one for the hub: both have a table alembic_version.
-- Locale C: names sort as everywhere else, and an image with another C library breaks no index.
CREATE DATABASE gradlab OWNER gradlab TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C';
CREATE DATABASE jupyterhub OWNER gradlab TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C';
