-- discard(number, or '' for all) -> how many dead letters were there and are gone
-- The counter stays, so that a number never means another letter.
if ARGV[1] ~= '' then return redis.call('HDEL', DEAD, ARGV[1]) end
local gone = 0
for _, number in ipairs(redis.call('HKEYS', DEAD)) do
  if number ~= 'last' then gone = gone + redis.call('HDEL', DEAD, number) end
end
return gone
