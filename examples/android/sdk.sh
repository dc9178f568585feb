#!/bin/sh
# Fetch what Debian 12 no longer has of its Android tools, dx and the API-23 android.jar of Debian 11, into the folder $1.
#
# apt checks the signatures and works with lists, sources and caches of its own: nothing of this machine's changes. The
# folder appears whole or not at all.
set -eu
sdk=${1:?usage: sdk.sh FOLDER}
[ -e "$sdk" ] && exit 0
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$keyring" ] || { echo "sdk.sh: $keyring is missing, by which packages are checked: install debian-archive-keyring." >&2; exit 2; }
mkdir -p "$(dirname "$sdk")"
work=$(mktemp -d "$sdk.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/etc/apt.conf.d" "$work/etc/preferences.d" "$work/etc/trusted.gpg.d" "$work/state/lists/partial" "$work/cache/archives/partial" "$work/sdk"
: > "$work/status"
# The mirror is the one that this machine uses.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' 2>/dev/null | grep -v security | head -n 1)
echo "deb [signed-by=$keyring] ${mirror:?apt knows no Debian mirror: run apt-get update} bullseye main" > "$work/etc/sources.list"
cat > "$work/apt.conf" <<END
Dir "$work/";
Dir::Etc "etc";
Dir::State "state";
Dir::State::status "$work/status";
Dir::Cache "cache";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Sandbox::User "";
END
export APT_CONFIG="$work/apt.conf"
apt-get -qq update
(cd "$work/cache" && apt-get -qq download dalvik-exchange libandroid-23-java)
for deb in "$work"/cache/*.deb; do dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/sdk" ./usr/share/java; done
mv "$work/sdk/usr/share/java" "$sdk" 2>/dev/null || [ -e "$sdk" ]
