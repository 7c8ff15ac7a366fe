# Counts words and pairs, indexes lines by word, rewrites text.
use strict;
use warnings;

my (%count, %after, %lines, $last);
while (my $line = <>) {
    chomp $line;
    for my $word (split / /, $line) {
        $count{$word}++;
        $after{$last}{$word}++ if defined $last;
        push @{ $lines{$word} }, $. if $. % 4 == 0;
        $last = $word;
    }
}
my @order = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
print "$_ $count{$_} ", scalar keys %{ $after{$_} }, "\n" for @order[0 .. 49];
my $text = join ',', map { $_ x ($count{$_} % 5) } @order;
(my $changed = $text) =~ s/([aeiou])(\w)/$2$1$1/g;
my $sum = 0;
$sum += @$_ * $$_[-1] for values %lines;
print length($text), ' ', length($changed), ' ', substr($changed, 0, 200), " $sum\n";
