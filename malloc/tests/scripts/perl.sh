# Hashes, regular expressions, sorting, closures, and a child.
perl <<'PERL'
use strict;
use warnings;
my (%words, @rows);
my $state = 12345;
sub draw { $state = ($state * 1103515245 + 12345) & 0x7fffffff; return $state >> 8 }
for my $i (1 .. 60000) {
    my $word = join '', map { chr(97 + draw() % 26) } 1 .. 1 + draw() % 12;
    $words{$word}++;
    push @{ $rows[length $word] }, $word if $i % 3 == 0;
}
printf "%d words\n", scalar keys %words;
my @most = (sort { $words{$b} <=> $words{$a} || $a cmp $b } keys %words)[0 .. 9];
print "$_ $words{$_}\n" for @most;
my $text = join ' ', map { @$_ } grep { defined } @rows;
my $count = () = $text =~ /\b(\w)\w*\1\b/g;
print "$count begin as they end\n";
(my $other = $text) =~ s/([aeiou]+)/<$1>/g;
print length($other), "\n";
my @closures = map { my $n = $_; sub { $n += shift } } 1 .. 1000;
my $sum = 0;
$sum += $_->(5) for @closures;
print "$sum\n";
my $grown = '';
$grown .= 'x' x ($_ % 100) for 1 .. 50000;
print length($grown), "\n";
my $child = fork;
if (!$child) { my @more = map { "text $_" } 1 .. 10000; exit(scalar(@more) == 10000 ? 4 : 5) }
waitpid $child, 0;
print $? >> 8, "\n";
PERL
echo "status $?"
