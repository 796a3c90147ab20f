# What a package does to a host, the same for .deb and .rpm: their scripts are this text and a call of one of its
# functions. No network; nothing here fails an installation, with systemd running or without it.

# systemd runs here, and the host lets packages do `$1` to services (Debian's policy-rc.d).
services() {
    [ -d /run/systemd/system ] && command -v systemctl >/dev/null || return 1
    [ ! -x /usr/sbin/policy-rc.d ] || /usr/sbin/policy-rc.d detector "$1" >/dev/null
}

users() {
    if command -v systemd-sysusers >/dev/null; then
        systemd-sysusers detector.conf && return
    fi
    for name in detector detector-feeds detector-signal detector-status; do
        getent group $name >/dev/null || groupadd --system $name
    done
    for name in detector detector-feeds; do
        getent passwd $name >/dev/null ||
            useradd --system --gid $name --home-dir /var/lib/$name --no-create-home --shell /usr/sbin/nologin $name
    done
    usermod --append --groups detector-signal,detector-status detector
}

# For the first time.
installed() {
    users
    if command -v systemctl >/dev/null; then
        systemctl --quiet enable detector.service detector-feeds.timer
    fi
    if services start; then
        /lib/systemd/systemd-sysctl 60-detector.conf
        systemctl daemon-reload
        systemctl --quiet start detector-feeds.timer
        if systemctl --quiet start detector.service; then
            echo "detector observes, and drops nothing. See it: detector status"
        else
            echo "detector is installed, and does not run yet. Why: journalctl --unit detector --lines 20"
        fi
    fi
    return 0
}

# Over an older or newer one. What is pinned holds until the new program has taken the old one's place.
upgraded() {
    users
    if services restart; then
        systemctl daemon-reload
        systemctl try-restart detector.service ||
            echo "detector does not run again. Why: journalctl --unit detector --lines 20"
    fi
    return 0
}

# While the program is still there.
removing() {
    if command -v systemctl >/dev/null; then
        if [ -d /run/systemd/system ]; then
            systemctl --quiet stop detector.service detector-loader.path detector-loader.service
            systemctl --quiet stop detector-sockets.socket detector-sockets.service
            systemctl --quiet stop detector-feeds.timer detector-feeds.service
        fi
        systemctl --quiet disable detector.service detector-feeds.timer
    fi
    /usr/bin/detector detach >/dev/null 2>&1
    return 0
}

# The program is gone.
removed() {
    # With the pins of a program that could not be asked to detach goes what they keep attached.
    rm -rf /sys/fs/bpf/detector
    if [ -d /run/systemd/system ] && command -v systemctl >/dev/null; then
        systemctl daemon-reload
        # A unit that failed last would be listed for ever.
        systemctl --quiet reset-failed 'detector*' 2>/dev/null
    fi
    return 0
}

# Nothing is to be left.
purged() {
    rm -rf /etc/detector /var/lib/detector /var/lib/detector-feeds /run/detector
    rm -f /var/lib/systemd/timers/stamp-detector-feeds.timer
    for name in detector detector-feeds; do
        if getent passwd $name >/dev/null; then userdel $name; fi
    done
    for name in detector detector-feeds detector-signal detector-status; do
        if getent group $name >/dev/null; then groupdel $name; fi
    done
    return 0
}
