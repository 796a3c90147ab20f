# Tries what a daemon that was taken over would try: `forbidden.pl PINS`. A line for each: `refused` or `done`, and what.
# Nothing of it does harm where it is done: what it names exists, or is as it was, or is empty. Debian has this perl always.
use strict;
use warnings;
use Socket;

my $pins = shift or die "no directory of pins\n";
$| = 1;

# System calls of x86-64 by number: there is no library here that has them.
my %call = (bpf => 321, mmap => 9, ptrace => 101, setuid => 105, mount => 165, reboot => 169, init_module => 175,
    clock_settime => 227, unshare => 272, io_uring_setup => 425);

sub attempt {
    my ($what, $try) = @_;
    $! = 0;
    my $done = $try->();
    my $error = $! + 0;
    # EPERM, EACCES, EROFS, EAFNOSUPPORT: who may not. Any other error is a request that was looked at.
    my $refused = !$done && grep { $error == $_ } 1, 13, 30, 97;
    printf "%s %s (%s)\n", $refused ? 'refused' : 'done', $what, $done ? 'no error' : $!;
}

# 0 and above is success.
sub call { my $name = shift; return syscall($call{$name}, @_) >= 0 }

sub bpf {
    my ($command, $attributes) = @_;
    $attributes .= "\0" x (128 - length $attributes);
    return call('bpf', $command, $attributes, length $attributes);
}

# mov r0, 0; exit
my $instructions = pack('C C s l', 0xb7, 0, 0, 0) . pack('C C s l', 0x95, 0, 0, 0);
my $licence = "GPL\0";
attempt('load an XDP program', sub { bpf(5, pack('L L P P', 6, 2, $instructions, $licence)) });
attempt('make a BPF map', sub { bpf(0, pack('L5', 11, 8, 4, 1, 1)) });
attempt('open a map by its number', sub { bpf(14, pack('L', 1)) });
my ($link) = glob("$pins/links/*-*");
$link .= "\0" if defined $link;
attempt('open a link, to detach it', sub { bpf(7, pack('P L L', $link // "$pins/links/native-eth0\0", 0, 0)) });
attempt('make a packet socket', sub { socket(my $s, 17, SOCK_RAW, 0x0300) });
attempt('make a TCP socket', sub { socket(my $s, AF_INET, SOCK_STREAM, 0) });
attempt('make a TCP socket for IPv6', sub { socket(my $s, AF_INET6, SOCK_STREAM, 0) });
attempt('make a UDP socket', sub { socket(my $s, AF_INET, SOCK_DGRAM, 0) });
attempt('make a ring, which makes sockets', sub { my $parameters = "\0" x 120; call('io_uring_setup', 1, $parameters) });
attempt('make a raw socket', sub { socket(my $s, AF_INET, SOCK_RAW, 1) });
attempt('set an interface down or up', sub {
    socket(my $s, AF_INET, SOCK_DGRAM, 0) or return 0;
    my $request = pack('a16 s x14 x8', 'lo', 0);
    ioctl($s, 0x8913, $request) or return 0;
    return ioctl($s, 0x8914, $request);
});
attempt('mount', sub { my ($none, $type, $at) = ("none\0", "tmpfs\0", "/mnt\0"); call('mount', $none, $at, $type, 0, 0) });
attempt('make a user namespace', sub { call('unshare', 0x10000000) });
attempt('be traced', sub { call('ptrace', 0, 0, 0, 0) });
attempt('load a kernel module', sub { my $none = "\0"; call('init_module', $none, 0, $none) });
attempt('restart the machine', sub { call('reboot', 0, 0, 0, 0) });
attempt('set the clock', sub { call('clock_settime', 0, 0) });
attempt('set a kernel parameter', sub { open(my $f, '>', '/proc/sys/net/ipv4/ip_forward') });
attempt('write the configuration', sub { open(my $f, '>>', '/etc/detector/detector.toml') });
attempt('have memory to write and run', sub { call('mmap', 0, 4096, 7, 0x22, -1, 0) });
attempt('be root', sub { call('setuid', 0) });
