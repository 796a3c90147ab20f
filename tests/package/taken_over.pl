# What somebody tries who has taken over the daemon: `taken_over.pl ADDRESS PORT direct|broker`. ADDRESS is another host's,
# and somebody accepts there. `direct`: whether it is reached at all. `broker`: a line for each try, what came of it first.
# Debian has this perl always.
use strict;
use warnings;
use IO::Handle;
use Socket qw(:all);

my ($address, $port, $way) = @ARGV;
my $broker = '/run/detector-sockets.sock';
# System calls and socket options of x86-64 by number: there is no library here that has them.
my ($recvmsg, $connect) = (47, 42);
my $bindtodevice = 25;
$| = 1;

sub reaches {
    my ($socket) = @_;
    $socket->blocking(0);
    return 1 if connect($socket, pack_sockaddr_in($port, inet_aton($address)));
    # EINPROGRESS: the only failure that may still become a connection.
    return 0 unless $! + 0 == 115;
    my $ready = '';
    vec($ready, fileno($socket), 1) = 1;
    return 0 unless select(undef, $ready, undef, 2);
    return unpack('i', getsockopt($socket, SOL_SOCKET, SO_ERROR)) == 0;
}

if ($way eq 'direct') {
    socket(my $socket, AF_INET, SOCK_STREAM, 0) or die "no socket: $!\n";
    print reaches($socket) ? "reached\n" : "not reached\n";
    exit;
}

# One request: the response's line, and the socket that came along.
sub request {
    my ($line) = @_;
    socket(my $unix, AF_UNIX, SOCK_STREAM, 0) or die "no unix socket: $!\n";
    connect($unix, pack_sockaddr_un($broker)) or die "the broker can't be reached: $!\n";
    syswrite($unix, "$line\n");
    my ($text, $control) = ("\0" x 512, "\0" x 24);
    my $vector = pack('P Q', $text, 512);
    my $message = pack('Q L x4 P Q P Q L x4', 0, 0, $vector, 1, $control, 24, 0);
    my $read = syscall($recvmsg, fileno($unix), $message, 0);
    die "no answer\n" unless $read > 0;
    my ($length, $level, $type, $descriptor) = unpack('Q i i i', $control);
    my $socket;
    open($socket, '+<&=', $descriptor) or die "no socket: $!\n" if $length == 20;
    return (substr($text, 0, $read), $socket);
}

# Disconnected, bound anew and connected to another host.
sub turned {
    my ($what, $socket) = @_;
    my $unspecified = "\0" x 16;
    syscall($connect, fileno($socket), $unspecified, 16) == 0 or die "can't be disconnected: $!\n";
    my $none = "\0";
    setsockopt($socket, SOL_SOCKET, $bindtodevice, $none);
    bind($socket, pack_sockaddr_in(0, INADDR_ANY));
    print reaches($socket) ? 'reached' : 'kept', " $what\n";
}

my ($said, $listener) = request('{"verb":"listen","address":"127.0.0.1:9999"}');
die "no listener: $said" unless $listener;
print "got a listener\n";
# What it accepts: the broker's own connection, as for a check.
socket(my $checked, AF_UNIX, SOCK_STREAM, 0) or die;
connect($checked, pack_sockaddr_un($broker)) or die;
syswrite($checked, qq({"verb":"check","address":"127.0.0.1:9999"}\n));
$listener->blocking(1);
accept(my $accepted, $listener) or die "nobody came: $!\n";
turned('what it accepted', $accepted);
turned('the listener', $listener);

for my $forbidden (
    qq({"verb":"check","address":"$address:$port"}),
    qq({"verb":"listen","address":"0.0.0.0:9999"}),
    qq({"verb":"resolver","address":"$address","over":"udp"}),
    qq({"verb":"resolver","address":"$address","over":"tcp"}),
    'x' x 512,
) {
    my ($said, $socket) = request($forbidden);
    my ($outcome) = $said =~ /"outcome":"(\w+)"/;
    print $socket ? 'got' : $outcome // 'nothing', " for ", substr($forbidden, 0, 60), "\n";
}
