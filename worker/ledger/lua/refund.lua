-- refund(rid, why, keep_ms) -> 1, also when said twice | 0 where it is not charged at its bound
-- a:<scope> hash: posted, unknown; r:<rid> hash, `keep_ms`; j stream
-- What was charged without knowing the outcome is given back: the provider's own figures show that
-- it was not billed.
local rid, why = ARGV[1], ARGV[2]
local state, amt, names = standing(rid)
if state == 'refunded' then return 1 end
if state ~= 'expired' then return 0 end
add(names, 'posted', -amt, 'unknown', -amt)
redis.call('HSET', reservation_key(rid), 'state', 'refunded', 'actual', '0', 'why', why)
ended(rid, names, ARGV[3])
log('refund', 'id', rid, 'amount', int(amt), 'why', why)
return 1
